"""The data sets that are known by name: where their files lie, what these hold, and who downloads them.

Checksums are torchvision's, of the files as they are published. Imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

_MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX = "raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
_CIFAR10 = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")


@dataclass(frozen=True)
class KnownSet:
    """One data set.

    images: of training. files: below its root, with `md5` of each as published (of MNIST: unpacked), and `packed_md5`
    of the .gz files that torchvision leaves beside them. content: a hash of the arrays, however they are packed.
    torchvision: the class that downloads it, into `folder`. layout: the files, in words.
    """

    images: int
    files: tuple[str, ...] = ()
    md5: tuple[str, ...] = ()
    packed_md5: tuple[str, ...] = ()
    content: str = ""
    torchvision: str = ""
    folder: str = ""
    layout: str = ""
    side: int = 32


KNOWN_SETS = {
    "digits": KnownSet(1437, content="e98d44a3df7d5b07", side=8),
    "mnist": KnownSet(
        60_000,
        tuple(f"MNIST/raw/{name}" for name in _MNIST),
        ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
         "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
         "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
        torchvision="MNIST", folder="MNIST", layout=f"MNIST/{_IDX}", side=28,
    ),
    "fashion_mnist": KnownSet(
        60_000,
        tuple(f"FashionMNIST/raw/{name}" for name in _MNIST),
        packed_md5=("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                    "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
        torchvision="FashionMNIST", folder="FashionMNIST", layout=f"FashionMNIST/{_IDX}", side=28,
    ),
    "cifar10": KnownSet(
        50_000,
        tuple(f"cifar-10-batches-py/{name}" for name in _CIFAR10),
        ("c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec", "54ebc095f3ab1f0389bbae665268c751",
         "634d18415352ddfa80567beed471001a", "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e",
         "5ff9c542aee3614f3951f8cda6e48888"),
        torchvision="CIFAR10", folder="cifar-10-batches-py",
        layout="cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
    ),
    "cifar100": KnownSet(
        50_000,
        ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
        ("16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc", "7973b15100ade9c7d40fb424638fde48"),
        content="6677cc4b69dec5bc",
        torchvision="CIFAR100", folder="cifar-100-python", layout="cifar-100-python/{train,test,meta}",
    ),
    "stl10": KnownSet(
        5_000,
        tuple(f"stl10_binary/{name}.bin" for name in ("train_X", "train_y", "test_X", "test_y")),
        ("918c2871b30a85fa023e0c44e0bee87f", "5a34089d4802c674881badbb80307741",
         "7f263ba9f9e0b06b93213547f721ac82", "36f9794fa4beb8a2c72628de14fa638e"),
        torchvision="STL10", folder="stl10_binary",
        layout="stl10_binary/{{train,test}_{X,y}.bin,class_names.txt}", side=96,
    ),
    "tinyimagenet": KnownSet(
        100_000, layout="tiny-imagenet-200 (unpacked from cs231n.stanford.edu/tiny-imagenet-200.zip)", side=64
    ),
}  # fmt: skip
