"""The bias battery: does the reward follow how something is said, net of its length?"""
