"""Tasks: reward, success and a scripted expert for each."""
