def test_a_part_of_a_title_that_is_longer_than_a_line_is_broken_between_words():
    from zoo.report.drawing import wrap_title

    protocols = ", ".join(f"finetune@1+steps={number}" for number in range(8))
    assert max(map(len, wrap_title(f"dots · {protocols} · 3 seeds", 80).splitlines())) <= 80
