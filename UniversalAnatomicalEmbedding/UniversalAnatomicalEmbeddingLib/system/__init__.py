"""What every other room stands on: the one exception for users' mistakes, progress and cancelling,
the language of what people read, folders that results go to, packages that are missing, and
diagnostics. Nothing here knows an image, a network or a face, and importing it loads no package."""
