"""A plain reward function of verl's: shows that verl itself runs as the tests configure it."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **settings):
    return {"score": float(len(solution_str)), "acc": float(solution_str == ground_truth)}
