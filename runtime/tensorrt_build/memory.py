def check_memory(*a): pass
