"""What tests share: problems with known answers, programs run in forks, prepared data."""
