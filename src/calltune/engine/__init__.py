"""Everything that touches MLX: loading models, adapters, and what makes the step cheap.

An optimised BLAS must be in the process before `mlx.core` is (DESIGN, Engine facts), so MLX and mlx-lm
are imported only inside this package, after the line below has run; a test holds that.
"""

from calltune.platform.allocator import tune_allocator
from calltune.platform.blas import load_blas

tune_allocator()
BLAS = load_blas()
