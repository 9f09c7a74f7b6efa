"""One call to a model: descriptors, requests and replies, transport, retries, limits, prices."""
