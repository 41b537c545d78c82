"""Programs that look after workdirs, stores and machines."""
