"""Warp kernels over the active voxels: differences, regularisers, blur, Adam, redistancing.

Active voxels are at least two voxels off the grid's border. Grids are flat and `active` holds flat
indices: neighbours along x, y and z are `sx`, `sy` and 1 apart. See `ray_kernels.py` for launches.
"""

import warp as wp


@wp.kernel
def differences(
    offset: int,
    active: wp.array(dtype=int),
    sx: int,
    sy: int,
    geo: wp.array(dtype=wp.vec4),
    h: float,
    laplacian: wp.array(dtype=float),
):
    """Writes central differences of f to the other three channels, and its Laplacian times h^2."""
    at = active[wp.tid() + offset]
    x0 = geo[at - sx][0]
    x1 = geo[at + sx][0]
    y0 = geo[at - sy][0]
    y1 = geo[at + sy][0]
    z0 = geo[at - 1][0]
    z1 = geo[at + 1][0]
    f = geo[at][0]
    scale = 0.5 / h
    laplacian[at] = x0 + x1 + y0 + y1 + z0 + z1 - 6.0 * f
    geo[at] = wp.vec4(f, (x1 - x0) * scale, (y1 - y0) * scale, (z1 - z0) * scale)


@wp.kernel
def accumulate(
    offset: int,
    active: wp.array(dtype=int),
    geo: wp.array(dtype=wp.vec4),
    grad_a: wp.array(dtype=wp.vec4),
    grad_b: wp.array(dtype=wp.vec4),
    eikonal: float,
    sparse: float,
    sparse_sharpness: float,
):
    """Sums two buffers into the first, clears the second, adds the eikonal and sparsity terms.

    grad_b: may be empty.
    eikonal: weight of (|g| - 1)^2 per voxel; sparse: weight of exp(-k |f|) per voxel.
    """
    at = active[wp.tid() + offset]
    total = grad_a[at]
    if grad_b.shape[0] > 0:
        total += grad_b[at]
        grad_b[at] = wp.vec4(0.0, 0.0, 0.0, 0.0)
    value = geo[at]
    length = wp.sqrt(value[1] * value[1] + value[2] * value[2] + value[3] * value[3]) + 1.0e-6
    grad_eikonal = 2.0 * eikonal * (length - 1.0) / length
    grad_sparse = float(0.0)
    if sparse > 0.0:
        f = value[0]
        grad_sparse = (
            -sparse * sparse_sharpness * wp.sign(f) * wp.exp(-sparse_sharpness * wp.abs(f))
        )
    grad_a[at] = total + wp.vec4(
        grad_sparse, grad_eikonal * value[1], grad_eikonal * value[2], grad_eikonal * value[3]
    )


@wp.kernel
def value_gradients(
    offset: int,
    active: wp.array(dtype=int),
    sx: int,
    sy: int,
    grad: wp.array(dtype=wp.vec4),
    laplacian: wp.array(dtype=float),
    h: float,
    smooth: float,
    out: wp.array(dtype=float),
):
    """Gradient with respect to f: direct, through the differences, of smooth * laplacian^2."""
    at = active[wp.tid() + offset]
    scale = 0.5 / h
    through = (
        grad[at - sx][1]
        - grad[at + sx][1]
        + grad[at - sy][2]
        - grad[at + sy][2]
        + grad[at - 1][3]
        - grad[at + 1][3]
    ) * scale
    bilaplacian = (
        laplacian[at - sx]
        + laplacian[at + sx]
        + laplacian[at - sy]
        + laplacian[at + sy]
        + laplacian[at - 1]
        + laplacian[at + 1]
        - 6.0 * laplacian[at]
    )
    out[at] = grad[at][0] + through + 2.0 * smooth * bilaplacian


@wp.kernel
def blur(
    offset: int,
    active: wp.array(dtype=int),
    source: wp.array(dtype=float),
    step: int,
    centre: float,
    near: float,
    far: float,
    out: wp.array(dtype=float),
):
    """Blur with five taps along one axis, whose neighbours are `step` apart."""
    at = active[wp.tid() + offset]
    out[at] = (
        centre * source[at]
        + near * (source[at - step] + source[at + step])
        + far * (source[at - 2 * step] + source[at + 2 * step])
    )


@wp.kernel
def adam_values(
    offset: int,
    active: wp.array(dtype=int),
    geo: wp.array(dtype=wp.vec4),
    grad: wp.array(dtype=float),
    grad_buffer: wp.array(dtype=wp.vec4),
    moments: wp.array(dtype=wp.vec2),
    lr: float,
    beta1: float,
    beta2: float,
    bias_correction1: float,
    bias_correction2: float,
    eps: float,
):
    """One Adam step of f; clears the gradient buffer."""
    at = active[wp.tid() + offset]
    g = grad[at]
    grad_buffer[at] = wp.vec4(0.0, 0.0, 0.0, 0.0)
    m = moments[at]
    first = beta1 * m[0] + (1.0 - beta1) * g
    second = beta2 * m[1] + (1.0 - beta2) * g * g
    moments[at] = wp.vec2(first, second)
    move = lr * (first * bias_correction1) / (wp.sqrt(second * bias_correction2) + eps)
    value = geo[at]
    geo[at] = wp.vec4(value[0] - move, value[1], value[2], value[3])


@wp.kernel
def adam_colours(
    offset: int,
    active: wp.array(dtype=int),
    col: wp.array(dtype=wp.vec4),
    grad_a: wp.array(dtype=wp.vec4),
    grad_b: wp.array(dtype=wp.vec4),
    first: wp.array(dtype=wp.vec4),
    second: wp.array(dtype=float),
    lr: float,
    beta1: float,
    beta2: float,
    bias_correction1: float,
    bias_correction2: float,
    eps: float,
):
    """One Adam step of the colours with one second moment per voxel; clears the buffers.

    grad_b: may be empty.
    Voxels that no ray has crossed keep their colour.
    """
    at = active[wp.tid() + offset]
    g = grad_a[at]
    if grad_b.shape[0] > 0:
        g += grad_b[at]
    v = beta2 * second[at] + (1.0 - beta2) * wp.dot(g, g)
    if v == 0.0:
        return
    zero = wp.vec4(0.0, 0.0, 0.0, 0.0)
    grad_a[at] = zero
    if grad_b.shape[0] > 0:
        grad_b[at] = zero
    m = beta1 * first[at] + (1.0 - beta1) * g
    first[at] = m
    second[at] = v
    value = col[at] - (lr * bias_correction1 / (wp.sqrt(v * bias_correction2) + eps)) * m
    col[at] = wp.vec4(
        wp.clamp(value[0], 0.0, 1.0),
        wp.clamp(value[1], 0.0, 1.0),
        wp.clamp(value[2], 0.0, 1.0),
        0.0,
    )


@wp.func
def toward(f: wp.array(dtype=float), at: int, step: int, s: float):
    """The smaller of the two neighbours' distances along an axis; 0 beyond the surface."""
    return wp.max(wp.min(s * f[at - step], s * f[at + step]), 0.0)


@wp.kernel
def surface_distances(
    offset: int,
    active: wp.array(dtype=int),
    sx: int,
    sy: int,
    geo: wp.array(dtype=wp.vec4),
    h: float,
    limit: float,
    out: wp.array(dtype=float),
    fixed: wp.array(dtype=wp.uint8),
):
    """f / |g| where a neighbour lies on the other side of the surface (fixed), else +-limit."""
    at = active[wp.tid() + offset]
    value = geo[at]
    f = value[0]
    s = 1.0
    if f < 0.0:
        s = -1.0
    crossing = (
        s * geo[at - sx][0] <= 0.0
        or s * geo[at + sx][0] <= 0.0
        or s * geo[at - sy][0] <= 0.0
        or s * geo[at + sy][0] <= 0.0
        or s * geo[at - 1][0] <= 0.0
        or s * geo[at + 1][0] <= 0.0
    )
    if crossing:
        length = wp.sqrt(value[1] * value[1] + value[2] * value[2] + value[3] * value[3])
        out[at] = wp.clamp(f / wp.max(length, 0.3), -1.8 * h, 1.8 * h)
        fixed[at] = wp.uint8(1)
    else:
        out[at] = s * limit
        fixed[at] = wp.uint8(0)


@wp.kernel
def eikonal_sweep(
    offset: int,
    active: wp.array(dtype=int),
    sx: int,
    sy: int,
    source: wp.array(dtype=float),
    fixed: wp.array(dtype=wp.uint8),
    h: float,
    out: wp.array(dtype=float),
):
    """One Jacobi step of |grad f| = 1 away from the surface."""
    at = active[wp.tid() + offset]
    f = source[at]
    if fixed[at] == wp.uint8(1):
        out[at] = f
        return
    s = 1.0
    if f < 0.0:
        s = -1.0
    a = toward(source, at, sx, s)
    b = toward(source, at, sy, s)
    c = toward(source, at, 1, s)
    low = wp.min(a, wp.min(b, c))
    high = wp.max(a, wp.max(b, c))
    mid = a + b + c - low - high
    d = low + h
    if d > mid:
        d = 0.5 * (low + mid + wp.sqrt(wp.max(2.0 * h * h - (low - mid) * (low - mid), 0.0)))
        if d > high:
            total = low + mid + high
            squares = low * low + mid * mid + high * high
            d = (total + wp.sqrt(wp.max(total * total - 3.0 * (squares - h * h), 0.0))) / 3.0
    out[at] = s * wp.min(wp.abs(f), d)
