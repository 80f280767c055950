"""Faults on purpose: a proxy that breaks links by a plan, and traffic that notices any damage."""
