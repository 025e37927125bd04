"""Calibration tables to plan with: arbitrary ones, and ones that follow the law exactly."""

from hypothesis import strategies as st

from service.core.artifact import CalibrationPoint

Points = tuple[CalibrationPoint, ...]

STEPS = st.lists(st.integers(1, 200), min_size=1, max_size=5, unique=True)
MEMBERS = st.lists(st.integers(1, 20), min_size=1, max_size=5, unique=True)


@st.composite
def noisy_tables(draw: st.DrawFn) -> Points:
    """Any errors at all on any grid: nothing orders them, and a point may be there twice."""
    steps, members = draw(STEPS), draw(MEMBERS)
    error = st.floats(0, 10)
    points = [CalibrationPoint(s, m, draw(error)) for s in steps for m in members]
    again = [CalibrationPoint(steps[0], members[0], draw(error))]
    return tuple(draw(st.permutations(points + draw(st.sampled_from([[], again])))))


def lawful_table(laws: dict[int, tuple[float, float]], members: tuple[int, ...]) -> Points:
    """Errors a + b / m, with (a, b) given for each step count."""
    return tuple(CalibrationPoint(s, m, a + b / m) for s, (a, b) in laws.items() for m in members)
