import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.data.ndc import intrinsics_to_ndc, ndc_to_intrinsics


def test_known_camera():
    camera = np.array([[300.0, 0, 310], [0, 400, 250], [0, 0, 1]])
    focal, principal = intrinsics_to_ndc(camera, 480, 640)
    np.testing.assert_allclose(focal, [300 / 240, 400 / 240])
    np.testing.assert_allclose(principal, [10 / 240, -10 / 240])  # +x left, +y up
    # PyTorch3D: a point at the edge of the shorter side has NDC +-1
    top = ndc_to_intrinsics([1.0, 1.0], [0.0, 0.0], 480, 640) @ [0, -1, 1]
    np.testing.assert_allclose(top, [320, 0, 1])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(1, 1e4), min_size=2, max_size=2),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_round_trip(focal, centre, height, width):
    camera = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])[None]
    back = ndc_to_intrinsics(*intrinsics_to_ndc(camera, height, width), height, width)
    np.testing.assert_allclose(back, camera, rtol=1e-9, atol=1e-9)
