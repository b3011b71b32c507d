"""Keys are taken from free ones and given back."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.action_manager import action_manager
from napari.utils.key_bindings import coerce_keybinding

from napari_noisylabel.plugin.keys import KEYS, ReviewKeys


@pytest.fixture
def pressed():
    return []


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    viewer.add_labels(np.zeros((4, 5), np.uint8))
    return viewer


def press(provider, key):
    provider.keymap[coerce_keybinding(key)](provider)


def bind(viewer, pressed):
    return ReviewKeys(viewer, {name: lambda name=name: pressed.append(name) for name in KEYS})


def test_keys_act_on_the_viewer_and_on_layers_old_and_new(viewer, pressed):
    keys = bind(viewer, pressed)
    image = viewer.add_image(np.zeros((4, 5)))

    for provider in (viewer, viewer.layers[0], image):
        press(provider, "A")
    press(viewer, "Shift-U")

    assert pressed == ["accept"] * 3 + ["redo"]
    keys.release()


def test_all_keys_are_given_back_and_those_of_others_stay(viewer, pressed):
    def mine(_):
        pressed.append("mine")

    viewer.bind_key("A", mine)
    keys = bind(viewer, pressed)

    keys.release()

    press(viewer, "A")
    assert pressed == ["mine"]
    assert not viewer.layers[0].keymap


@pytest.mark.parametrize("kind", [Labels, Image, ViewerModel])
def test_no_key_is_one_that_napari_uses_on_labels_image_or_viewer(kind):
    taken = {str(key) for key in kind.class_keymap}
    for name, shortcuts in action_manager._shortcuts.items():
        if name.split(":")[0] == "napari" and action_manager._actions[name].keymapprovider in kind.__mro__:
            taken |= {str(shortcut) for shortcut in shortcuts}

    assert not taken & {str(coerce_keybinding(key)) for key in KEYS.values()}
