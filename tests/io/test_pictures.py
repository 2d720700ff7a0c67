"""Matches drawn side by side: sizes, colours and bad points."""

import numpy as np
import pytest

from vision3d.io.pictures import GAP_PX, draw_matches

GREY = np.full((60, 80, 3), 100, np.uint8)


def test_photos_stand_side_by_side_at_one_height():
    tall = np.full((200, 100, 3), 50, np.uint8)
    out = draw_matches(GREY, tall, np.zeros((0, 2)), np.zeros((0, 2)), height=100)
    assert out.shape == (100, 80 + GAP_PX + 50, 3)
    assert out.dtype == np.uint8
    assert (out[50, 40] == 80).all()  # 100 darkened
    assert (out[0, 40] != out[50, 40]).any()  # the shorter photo is centred


def test_a_line_joins_the_two_points_in_its_colour():
    red = np.array([[255, 0, 0]], np.uint8)
    out = draw_matches(GREY, GREY, np.array([[20.5, 30.5]]), np.array([[60.5, 30.5]]), red)
    assert out[30, 20].tolist() == [255, 0, 0]
    assert out[30, 80 + GAP_PX + 60].tolist() == [255, 0, 0]
    assert out[30, 50, 0] > 180 and out[30, 50, 1] < 60
    assert (out[10, :80] == 80).all()


def test_points_that_cannot_be_drawn_are_left_out():
    bad = np.array([[np.nan, 1.0], [np.inf, 1.0], [-5.0, 3.0], [1e12, 3.0]])
    good = np.tile([[5.0, 5.0]], (4, 1))
    plain = draw_matches(GREY, GREY, np.zeros((0, 2)), np.zeros((0, 2)))
    assert (draw_matches(GREY, GREY, bad, good) == plain).all()
    assert (draw_matches(GREY, GREY, good, bad) == plain).all()


def test_inputs_stay_as_they_were_and_many_matches_are_thinned():
    points = np.random.default_rng(0).uniform(0, 60, (5000, 2)).astype(np.float32)
    before = GREY.copy()
    few = draw_matches(GREY, GREY, points, points, max_lines=3)
    many = draw_matches(GREY, GREY, points, points)
    assert (before == GREY).all()
    assert (few != many).any()
    assert draw_matches(GREY[:1, :1], GREY, points, points).shape[0] == 60


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        draw_matches(GREY, GREY, np.zeros((1, 2)), np.zeros((2, 2)))
