"""Words that every room shares: settings, domain words, errors, queue names. Imports nothing else of ours."""
