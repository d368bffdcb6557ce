import pytest
import torch

from alphareq_lightning.functional.products import (
    MAX_BLOCK,
    MIN_BLOCK,
    add_products_,
    block_columns,
    full_precision,
    mirror_,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("d", [1, MIN_BLOCK, MIN_BLOCK + 1, 3 * MIN_BLOCK + 5, 4 * MAX_BLOCK + 1])
def test_upper_blocks_mirrored_are_the_whole_product(d):
    x = torch.randn(20, d, dtype=torch.float64)
    scatter = torch.zeros(d, d, dtype=torch.float64)
    for rows in (x[:7], x[7:]):
        add_products_(scatter, rows)
    torch.testing.assert_close(scatter.triu(), (x.T @ x).triu())
    assert not scatter[block_columns(d) :, : block_columns(d)].any()
    assert torch.equal(mirror_(scatter), scatter.T)
    torch.testing.assert_close(scatter, x.T @ x)


def settings_of_the_user():
    switches = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    return [getattr(switch, "fp32_precision", None) for switch in switches]


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_fast_products_are_off_inside_and_back_outside(wanted):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        outside = settings_of_the_user()
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(CPU):
            inside = settings_of_the_user()[1] or torch.get_float32_matmul_precision()
            assert inside in ("none", "ieee", "highest")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert settings_of_the_user() == outside
        assert torch.get_float32_matmul_precision() == wanted
        with pytest.raises(ZeroDivisionError), full_precision(CPU):
            raise ZeroDivisionError
        assert settings_of_the_user() == outside
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(settings_of_the_user()[1] is None, reason="this torch has no such switch")
def test_switches_of_one_backend_do_not_break_it():
    # Reading the common setting raises once these were turned.
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        with full_precision(CPU):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before


@pytest.mark.skipif(settings_of_the_user()[1] is None, reason="this torch has no such switch")
def test_switches_that_follow_the_common_one_go_on_following():
    before = torch.backends.fp32_precision
    switch = torch.backends.mkldnn.matmul
    switch.fp32_precision = "none"  # other tests have set it
    torch.backends.fp32_precision = "bf16"
    try:
        with full_precision(CPU):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "bf16"
        torch.backends.fp32_precision = "ieee"
        assert switch.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = before
