"""The public data sets of amodal completion."""

from __future__ import annotations

from training.data.coco_a import open_coco_a
from training.data.mp3d_amodal import open_mp3d_amodal
from training.data.pix2gestalt import open_pix2gestalt
from training.data.set_info import SetInfo

AMODAL_SETS: tuple[SetInfo, ...] = (
    SetInfo(
        name="pix2gestalt",
        task="amodal",
        splits=("train", "val"),
        open=open_pix2gestalt,
        depth_range=None,
        counts={},  # 837 thousand in all
        licence="research only; pictures under the SA-1B licence",
        source="https://github.com/cvlab-columbia/pix2gestalt",
        layout=(
            "occlusion/ID_occlusion.png",
            "whole/ID_whole.png",
            "visible_object_mask/ID_visible_mask.png",
            "whole_mask/ID_whole_mask.png",
        ),
    ),
    SetInfo(
        name="coco_a",
        task="amodal",
        splits=("train", "val", "test"),
        open=open_coco_a,
        depth_range=None,
        counts={"train": 22_163, "val": 12_753},
        licence="CC BY 4.0 (annotations); pictures under the terms of Flickr",
        source="https://github.com/Wakeupbuddy/amodalAPI",
        layout=("annotations/COCO_amodal_{split}2014.json", "{split}2014/COCO_{split}2014_NNN.jpg"),
    ),
    SetInfo(
        name="mp3d_amodal",
        task="amodal",
        splits=("eval", "train"),
        open=open_mp3d_amodal,
        depth_range=None,
        counts={},
        licence="Matterport3D terms of use, not commercial",
        source="https://www.robots.ox.ac.uk/~vgg/research/amodal/",
        layout=("MP3D_seleted_{split}_10.29.json (converted)", "mp3d_{split}/PICTURE"),
    ),
)
