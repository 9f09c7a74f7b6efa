"""One call to a model: descriptor, requests and replies, transport, retries, limits, prices, the embedded
model.
"""
