"""May this candidate replace the champion?"""
