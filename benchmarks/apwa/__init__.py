"""Redaction, schema extraction and hierarchical summaries: the engine beside what people write without one."""
