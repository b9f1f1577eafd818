"""Extraction from texts: keywords, entities of given types, fields of a schema, dates and amounts in standard form."""
