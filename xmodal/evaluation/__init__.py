"""What was made, judged against what is real: judges, metrics, tables and the report."""
