"""One unit of work: rows become prompts, replies become typed outcomes. No I/O but in `driver`."""
