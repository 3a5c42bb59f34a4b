from reference_precision import _cache, _full_precision, openai_clip  # noqa: F401
