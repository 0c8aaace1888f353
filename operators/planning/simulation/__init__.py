"""A release without services: generated or recorded traffic, ways to fail, and the same judge as in production."""
