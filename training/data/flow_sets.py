"""The public data sets of flow."""

from __future__ import annotations

from training.data.flying_chairs import open_flying_chairs
from training.data.kitti_flow import open_kitti_flow
from training.data.set_info import SetInfo
from training.data.sintel import open_sintel_clean, open_sintel_final

FLOW_SETS: tuple[SetInfo, ...] = (
    SetInfo(
        name="flying_chairs",
        task="flow",
        splits=("train", "val"),
        open=open_flying_chairs,
        depth_range=None,
        counts={"train": 22_232, "val": 640},
        licence="research only, not commercial",
        source="https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html",
        layout=("data/NNNNN_{img1.ppm,img2.ppm,flow.flo}", "FlyingChairs_train_val.txt"),
    ),
    *(
        SetInfo(
            name=f"sintel_{render_pass}",
            task="flow",
            splits=("train",),
            open=open_pass,
            depth_range=None,
            counts={"train": 1_041},
            licence="CC BY 3.0 (the film, Blender Foundation)",
            source="http://sintel.is.tue.mpg.de",
            layout=(
                f"training/{render_pass}/SCENE/frame_FFFF.png",
                "training/flow/SCENE/frame_FFFF.flo",
                "training/{occlusions,invalid}/SCENE/frame_FFFF.png (may be left out)",
            ),
        )
        for render_pass, open_pass in (("clean", open_sintel_clean), ("final", open_sintel_final))
    ),
    SetInfo(
        name="kitti_flow",
        task="flow",
        splits=("train", "train_noc"),
        open=open_kitti_flow,
        depth_range=None,
        counts={"train": 200, "train_noc": 200},
        licence="CC BY-NC-SA 3.0",
        source="https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
        layout=(
            "training/image_2/NNNNNN_{10,11}.png",
            "training/{flow_occ,flow_noc}/NNNNNN_10.png",
        ),
    ),
)
