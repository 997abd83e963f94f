"""Where the other servers are asked."""

UNARY_PATH = "/bench.Unary/Classify"
LITSERVE_PATH = "/predict"
JPEG_PATH = "/classify"
