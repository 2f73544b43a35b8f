"""HTTP/2 as no honest client speaks it: attacks, which the tests use too, and what honest callers notice of them."""
