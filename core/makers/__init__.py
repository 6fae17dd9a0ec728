"""Rows that are made instead of typed: from the identity card by templates, and from other rows by the base model."""
