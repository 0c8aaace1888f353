"""Evidence that comes after the answer: predictions from the prediction log, labels, and business numbers.

`collect` reads them for one release; `Collector` does so again and again, and reads only what is new.
"""
