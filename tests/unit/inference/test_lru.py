from inference.lru import ByteLru


def test_the_least_recently_used_goes_first():
    cache = ByteLru(100)
    for key in "abc":
        cache.put(key, key.upper(), 40 if key != "c" else 20)
    assert cache.get("a") == "A"
    cache.put("d", "D", 30)
    assert cache.get("b") is None
    assert cache.keys() == ["c", "a", "d"]
    assert cache.used == 90


def test_what_is_larger_than_the_bound_is_not_kept_and_evicts_nothing():
    cache = ByteLru(100)
    cache.put("a", 1, 60)
    cache.put("big", 2, 101)
    assert (cache.get("big"), cache.get("a"), cache.used) == (None, 1, 60)


def test_putting_again_and_dropping_keep_the_count():
    cache = ByteLru(100)
    cache.put("a", 1, 60)
    cache.put("a", 2, 10)
    assert (cache.get("a"), cache.used) == (2, 10)
    cache.drop("a")
    cache.drop("a")
    assert cache.used == 0
