"""Always-valid statistics, pure: e-processes and the intervals that they give. A log e-value in, a log e-value out.

An e-process starts at 1 and does not grow on average while its null hypothesis holds. So the chance that it ever
exceeds 1/alpha is at most alpha, however often it is checked (Ville, "Étude critique de la notion de collectif", 1939).
A mean of e-processes is an e-process (Vovk and Wang, "E-values: calibration, combination and applications", Annals of
Statistics 49, 2021): the mixtures here are such means. Everything depends on counts or sums alone, never on an order or
a state.
"""
