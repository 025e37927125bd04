"""The public data sets of depth."""

from __future__ import annotations

from training.data import (
    diode,
    eth3d,
    hypersim,
    hypersim_raw,
    kitti_eigen,
    nyu_v2,
    scannet,
    virtual_kitti,
)
from training.data.diode import open_diode
from training.data.eth3d import open_eth3d
from training.data.hypersim import open_hypersim
from training.data.hypersim_raw import open_hypersim_raw
from training.data.kitti_eigen import open_kitti_eigen
from training.data.nyu_v2 import open_nyu_v2
from training.data.scannet import open_scannet
from training.data.set_info import SetInfo
from training.data.virtual_kitti import open_virtual_kitti

DEPTH_SETS: tuple[SetInfo, ...] = (
    SetInfo(
        name="hypersim",
        task="depth",
        splits=("train", "val", "test"),
        open=open_hypersim,
        depth_range=hypersim.RANGE,
        counts={
            "train": 53_885,
            "val": 7_370,
            "test": 7_682,
        },  # the frames that Marigold found good
        licence="CC BY-SA 3.0",
        source="https://github.com/apple/ml-hypersim, prepared as by https://github.com/prs-eth/Marigold",
        layout=(
            "{split}/ai_XXX_YYY/rgb_cam_CC_frFFFF.png",
            "{split}/ai_XXX_YYY/depth_plane_cam_CC_frFFFF.png",
            "filename_list_{split}_filtered.txt (else every frame)",
        ),
    ),
    SetInfo(
        name="hypersim_raw",
        task="depth",
        splits=("train", "val", "test", "all"),
        open=open_hypersim_raw,
        depth_range=hypersim_raw.RANGE,
        counts={"train": 59_543, "val": 7_386, "test": 7_690},
        licence="CC BY-SA 3.0",
        source="https://github.com/apple/ml-hypersim",
        layout=(
            "ai_XXX_YYY/images/scene_cam_CC_final_hdf5/frame.FFFF.color.hdf5",
            "ai_XXX_YYY/images/scene_cam_CC_geometry_hdf5/frame.FFFF.depth_meters.hdf5",
            "ai_XXX_YYY/images/scene_cam_CC_geometry_hdf5/frame.FFFF.render_entity_id.hdf5",
            "metadata_images_split_scene_v1.csv (not for all)",
        ),
    ),
    SetInfo(
        name="virtual_kitti",
        task="depth",
        splits=("train", "val"),
        open=open_virtual_kitti,
        depth_range=virtual_kitti.RANGE,
        counts={"train": 20_148, "val": 5_364},
        licence="CC BY-NC-SA 3.0",
        source="https://europe.naverlabs.com/proxy-virtual-worlds-vkitti-2/",
        layout=(
            "SceneXX/VARIANT/frames/rgb/Camera_K/rgb_FFFFF.jpg",
            "SceneXX/VARIANT/frames/depth/Camera_K/depth_FFFFF.png",
        ),
    ),
    SetInfo(
        name="nyu_v2",
        task="depth",
        splits=("train", "test"),
        open=open_nyu_v2,
        depth_range=nyu_v2.RANGE,
        counts={"train": 795, "test": 654},
        licence="none stated; for research",
        source="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        layout=(
            "nyu_depth_v2_labeled.mat and splits.mat",
            "or {split}/SCENE/rgb_FFFF.png and {split}/SCENE/depth_FFFF.png",
        ),
    ),
    SetInfo(
        name="kitti_eigen",
        task="depth",
        splits=("train", "test", "all"),
        open=open_kitti_eigen,
        depth_range=kitti_eigen.RANGE,
        counts={"test": 652},
        licence="CC BY-NC-SA 3.0",
        source="https://www.cvlibs.net/datasets/kitti/, raw data and annotated depth maps",
        layout=(
            "DATE/DRIVE_sync/image_02/data/FFFFFFFFFF.png",
            "[train/ or val/]DRIVE_sync/proj_depth/groundtruth/image_02/FFFFFFFFFF.png",
            "eigen_{split}_files_with_gt.txt (not for all)",
        ),
    ),
    SetInfo(
        name="eth3d",
        task="depth",
        splits=("train",),
        open=open_eth3d,
        depth_range=eth3d.RANGE,
        counts={"train": 454},
        licence="CC BY-NC-SA 4.0",
        source="https://www.eth3d.net/datasets, high-res multi-view, training, jpg and depth",
        layout=(
            "SCENE/images/dslr_images/DSC_FFFF.JPG",
            "SCENE/ground_truth_depth/dslr_images/DSC_FFFF.JPG",
        ),
    ),
    SetInfo(
        name="scannet",
        task="depth",
        splits=("train", "val", "all"),
        open=open_scannet,
        depth_range=scannet.RANGE,
        counts={"val": 800},
        licence="ScanNet terms of use, not commercial",
        source="http://www.scan-net.org",
        layout=(
            "[scans/]sceneXXXX_YY/color/N.jpg",
            "[scans/]sceneXXXX_YY/depth/N.png",
            "scannet_val_sampled_list_800_1.txt or scannetv2_{split}.txt (not for all)",
        ),
    ),
    SetInfo(
        name="diode",
        task="depth",
        splits=("train", "val", "val_indoor", "val_outdoor"),
        open=open_diode,
        depth_range=diode.RANGE,
        counts={"train": 25_458, "val": 771, "val_indoor": 325, "val_outdoor": 446},
        licence="MIT",
        source="https://diode-dataset.org",
        layout=(
            "[{split}/]{indoors,outdoor}/scene_XXXXX/scan_YYYYY/NAME.png",
            "[{split}/]{indoors,outdoor}/scene_XXXXX/scan_YYYYY/NAME_depth.npy",
            "[{split}/]{indoors,outdoor}/scene_XXXXX/scan_YYYYY/NAME_depth_mask.npy",
        ),
    ),
)
