"""Images that a method has made itself: where they are kept, and how the student sees them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data import DataInfo


class RingBuffer(nn.Module):
    """Rows [M,...] that are filled block by block, the oldest overwritten first."""

    rows: Tensor
    next: Tensor  # where the next row goes
    filled: Tensor  # how many there are

    def __init__(self, size: int, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def add(self, rows: Tensor) -> None:
        """Put rows [B,...] in the place of the oldest."""
        size = len(self.rows)
        self.rows[(self.next + torch.arange(len(rows), device=rows.device)) % size] = rows
        self.next.copy_((self.next + len(rows)) % size)
        self.filled.copy_((self.filled + len(rows)).clamp(max=size))

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` rows, each at most once, and which of them [count] are filled: all, where so many are."""
        empty = torch.arange(len(self.rows), device=self.rows.device) >= self.filled
        order = torch.rand(len(self.rows), device=self.rows.device) + empty
        chosen = order.topk(min(count, len(self.rows)), largest=False).indices
        return self.rows[chosen], ~empty[chosen]


class CropFlip(nn.Module):
    """Crops of inputs [B,C,S,S] with a black border of `pad` pixels, and flips, at random: as training images are seen.

    Gradients pass through. Images are in the data's normalised units, in which black is -mean / std.
    """

    black: Tensor

    def __init__(self, data: DataInfo, pad: int, flip: bool) -> None:
        super().__init__()
        self.pad, self.flip = pad, flip
        black = -torch.tensor(data.mean) / torch.tensor(data.std)
        self.register_buffer("black", black.view(1, -1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        count, channels, height, width = inputs.shape
        dy, dx = torch.randint(2 * self.pad + 1, (2, count, 1), device=inputs.device)
        rows = dy + torch.arange(height, device=inputs.device)
        columns = dx + torch.arange(width, device=inputs.device)
        if self.flip:
            mirrored = torch.rand(count, 1, device=inputs.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        framed = self.framed(inputs)
        cut = framed.gather(2, rows.view(count, 1, height, 1).expand(-1, channels, -1, framed.shape[3]))
        seen = cut.gather(3, columns.view(count, 1, 1, width).expand(-1, channels, height, -1))
        return seen.contiguous(memory_format=torch.channels_last)

    def framed(self, inputs: Tensor) -> Tensor:
        """Return the images in their black border."""
        sides = (self.pad,) * 4
        border = 1 - F.pad(torch.ones_like(inputs[:1, :1]), sides)
        return F.pad(inputs, sides) + border * self.black


def resized_crop(inputs: Tensor, share: float, flip: bool) -> Tensor:
    """Return a crop of each image [B,C,S,S] at full size again, and flips of half of them.

    `share` to 1 of the area, ratios of 3/4 to 4/3, as RandomResizedCrop; longer sides than the image's are cut to it.
    """
    areas, ratios, right, down, side = torch.rand(5, len(inputs), 1, device=inputs.device).unbind()
    area, ratio = share + (1 - share) * areas, (4 / 3) ** (2 * ratios - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    mirrored = torch.where(side < 0.5, -width, width) if flip else width
    none = torch.zeros_like(width)
    across = torch.cat([mirrored, none, (1 - width) * (2 * right - 1)], 1)
    along = torch.cat([none, height, (1 - height) * (2 * down - 1)], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)
