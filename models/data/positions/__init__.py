"""Positions of sources, from what people have: catalogs of surveys and programs, regions, arrays.

`_reading.read_positions` goes through four steps: a table from whatever is given (`_tables`,
`_files`, `_text`, `_regions`), places in the image from its columns (`_columns`, `_angles`,
`_places`), the rows that belong to the image (`_rows`, `_margins`), and names and kinds of
sources (`_ids`, `_kinds`).  `_light` compares the result with the light in the image.
"""
