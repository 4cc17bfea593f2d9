// The little that has to happen in the browser: uploads, keyboard, finding the way back after a lost connection.
(() => {
  const run = (...args) => window.trame.trigger("do", args);
  const show = (text) => window.trame.state.set("uploading", text);

  async function upload(input) {
    const files = [...input.files];
    input.value = "";
    if (!files.length) return;
    const batch = Math.random().toString(36).slice(2, 12).padEnd(10, "0");
    const total = files.reduce((sum, file) => sum + file.size, 0);
    let done = 0;
    for (const file of files) {
      show(`Sending ${file.name} (${Math.round((100 * done) / Math.max(total, 1))} %)`);
      const answer = await fetch(`/upload/${batch}?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }).catch(() => null);
      if (!answer || !answer.ok) {
        show("");
        const body = answer ? await answer.json().catch(() => ({})) : {};
        await run("upload_failed", batch, body.error || "The file could not be sent: the connection was lost. Try again.");
        return;
      }
      done += file.size;
    }
    show("");
    await run("open_upload", batch);
  }

  const keys = {
    p: ["place"], c: ["cursor"], s: ["overlay"], w: ["window"], a: ["accept"], r: ["reject"], n: ["step", 1], b: ["step", -1],
    m: ["match_all"], delete: ["delete"], escape: ["escape"], 0: ["reset_views"],
  };

  document.addEventListener("keydown", (event) => {
    if (!window.trame || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const key = event.key.toLowerCase();
    const state = window.trame.state;
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      run(key === "y" || event.shiftKey ? "redo" : "undo");
    } else if (key === "?") {
      state.set("dialog", "help");
    } else if (key === "o") {
      state.set("dialog", "open");
    } else if (key === "escape" && state.get("dialog")) {
      state.set("dialog", "");
    } else if (keys[key] && !event.repeat) {
      run(...keys[key]);
    }
  });

  // When the websocket ends, trame replaces the page; the session itself lives on in the server, so loading the page again continues it.
  let lost = false;
  window.uae = {
    upload,
    lost() {
      if (lost) return;
      lost = true;
      const banner = document.createElement("div");
      banner.className = "uae-lost";
      banner.textContent = "Connection lost. Trying to reach the session again…";
      document.body.appendChild(banner);
      setInterval(async () => {
        const answer = await fetch("/alive" + window.location.search).catch(() => null);
        if (answer) window.location.reload();
      }, 1000);
    },
  };
  new MutationObserver(() => {
    if (document.querySelector("[data-uae-lost]")) window.uae.lost();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
