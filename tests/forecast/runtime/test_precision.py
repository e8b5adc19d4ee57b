import pytest

from forecast.runtime.precision import ServedIn, Variant, Variants

NAN = float("nan")


def both(size_mb: float, latency_ms: float, loss: float, *, of_mb: float = 4.0) -> Variants:
    """Int8 beside a float32 that takes 1 ms and has a loss of 1."""
    exact = Variant(size_mb=of_mb, latency_ms=1.0, loss=1.0)
    return Variants(float32=exact, int8=Variant(size_mb=size_mb, latency_ms=latency_ms, loss=loss))


@pytest.mark.parametrize(
    ("variants", "serves"),
    [
        (both(1.0, 0.8, 1.009), ServedIn.INT8),
        (both(1.0, 0.8, 1.011), ServedIn.FLOAT32),
        (both(1.0, 0.8, NAN), ServedIn.FLOAT32),
        (both(1.0, 0.95, 0.9), ServedIn.FLOAT32),
        (both(100.0, 1.5, 1.0, of_mb=400.0), ServedIn.INT8),
        (both(300.0, 1.5, 1.0, of_mb=400.0), ServedIn.FLOAT32),
    ],
    ids=["faster", "worse", "not a number", "neither faster nor much smaller", "large and halved", "not halved"],
)
def test_int8_serves_only_where_it_forecasts_as_well_and_is_faster_or_of_a_large_network_half(
    variants: Variants, serves: ServedIn
) -> None:
    assert variants.serves is serves
    assert variants.summary.startswith(f"serves in {serves};")


def test_the_summary_has_both_sides() -> None:
    summary = both(1.0, 0.8, 1.009).summary
    assert "1.00 against 4.00 MB, 0.80 against 1.00 ms, loss 1.0090 against 1.0000" in summary
