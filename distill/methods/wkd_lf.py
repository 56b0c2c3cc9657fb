"""WKD-L and WKD-F together (Lv, Yang, Li, NeurIPS 2024, arXiv:2412.08139, table 4)."""

from distill.methods.wkd_f import WKDF
from distill.methods.wkd_l import WKDL


class WKDLF(WKDL, WKDF):
    """The losses of both."""
