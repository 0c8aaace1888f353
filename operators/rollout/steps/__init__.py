"""The steps of a release that have traffic: shadow, canary, approval, watch. They look, and obey the judge."""
