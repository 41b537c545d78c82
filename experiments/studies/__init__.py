"""Programs beside the pipeline that answer one question each."""
