"""The wire as documents for other programs, generated from the structs: JSON Schema and AsyncAPI.

`python -m everstep_schemas.documents DIRECTORY` writes them. Nothing that runs workflows or activities imports this.
"""
