"""The trainer: settles every `auto`, builds model, feed and programs, and runs the loop."""
