"""Compiled steps over the voxels near the surface: slopes, regularisers, blur, Adam, distances.

Each works through a list of voxels that keeps two voxels' distance from the grid's border; it holds
their three indices, as taking a linear one apart costs more than reading them. See
`grid_kernels.py` for how they are launched.
"""

import warp as wp


@wp.kernel
def differences(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    geo: wp.array3d(dtype=wp.vec4),
    h: float,
    laplacian: wp.array3d(dtype=float),
):
    """Central differences of f into the other three channels, and its Laplacian times h^2."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    x0 = geo[i - 1, j, k][0]
    x1 = geo[i + 1, j, k][0]
    y0 = geo[i, j - 1, k][0]
    y1 = geo[i, j + 1, k][0]
    z0 = geo[i, j, k - 1][0]
    z1 = geo[i, j, k + 1][0]
    f = geo[i, j, k][0]
    scale = 0.5 / h
    laplacian[i, j, k] = x0 + x1 + y0 + y1 + z0 + z1 - 6.0 * f
    geo[i, j, k] = wp.vec4(f, (x1 - x0) * scale, (y1 - y0) * scale, (z1 - z0) * scale)


@wp.kernel
def gather(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    geo: wp.array3d(dtype=wp.vec4),
    grad_a: wp.array3d(dtype=wp.vec4),
    grad_b: wp.array3d(dtype=wp.vec4),
    eikonal: float,
    sparse: float,
    sparse_sharpness: float,
):
    """Sums two buffers into the first, clears the second, adds the eikonal and sparsity terms.

    eikonal: weight of (|g| - 1)^2 a voxel; sparse: weight of exp(-k |f|) a voxel.
    """
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    total = grad_a[i, j, k] + grad_b[i, j, k]
    grad_b[i, j, k] = wp.vec4(0.0, 0.0, 0.0, 0.0)
    value = geo[i, j, k]
    length = wp.sqrt(value[1] * value[1] + value[2] * value[2] + value[3] * value[3]) + 1.0e-6
    pull = 2.0 * eikonal * (length - 1.0) / length
    f = value[0]
    fade = -sparse * sparse_sharpness * wp.sign(f) * wp.exp(-sparse_sharpness * wp.abs(f))
    grad_a[i, j, k] = total + wp.vec4(fade, pull * value[1], pull * value[2], pull * value[3])


@wp.kernel
def by_values(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    grad: wp.array3d(dtype=wp.vec4),
    laplacian: wp.array3d(dtype=float),
    h: float,
    smooth: float,
    out: wp.array3d(dtype=float),
):
    """Derivative by f alone: of f itself, through the slopes, and of smooth * laplacian^2."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    scale = 0.5 / h
    through = (
        grad[i - 1, j, k][1]
        - grad[i + 1, j, k][1]
        + grad[i, j - 1, k][2]
        - grad[i, j + 1, k][2]
        + grad[i, j, k - 1][3]
        - grad[i, j, k + 1][3]
    ) * scale
    bend = (
        laplacian[i - 1, j, k]
        + laplacian[i + 1, j, k]
        + laplacian[i, j - 1, k]
        + laplacian[i, j + 1, k]
        + laplacian[i, j, k - 1]
        + laplacian[i, j, k + 1]
        - 6.0 * laplacian[i, j, k]
    )
    out[i, j, k] = grad[i, j, k][0] + through + 2.0 * smooth * bend


@wp.kernel
def clear(offset: int, active: wp.array(dtype=wp.vec3i), grad: wp.array3d(dtype=wp.vec4)):
    at = active[wp.tid() + offset]
    grad[at[0], at[1], at[2]] = wp.vec4(0.0, 0.0, 0.0, 0.0)


@wp.kernel
def blur(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    source: wp.array3d(dtype=float),
    axis: int,
    centre: float,
    near: float,
    far: float,
    out: wp.array3d(dtype=float),
):
    """Five taps along one axis."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    di = 0
    dj = 0
    dk = 0
    if axis == 0:
        di = 1
    elif axis == 1:
        dj = 1
    else:
        dk = 1
    out[i, j, k] = (
        centre * source[i, j, k]
        + near * (source[i - di, j - dj, k - dk] + source[i + di, j + dj, k + dk])
        + far
        * (source[i - 2 * di, j - 2 * dj, k - 2 * dk] + source[i + 2 * di, j + 2 * dj, k + 2 * dk])
    )


@wp.kernel
def adam_values(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    geo: wp.array3d(dtype=wp.vec4),
    grad: wp.array3d(dtype=float),
    moments: wp.array3d(dtype=wp.vec2),
    rate: float,
    beta1: float,
    beta2: float,
    unbias1: float,
    unbias2: float,
    floor: float,
):
    """One Adam step of f; `floor` is Adam's epsilon."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    g = grad[i, j, k]
    m = moments[i, j, k]
    first = beta1 * m[0] + (1.0 - beta1) * g
    second = beta2 * m[1] + (1.0 - beta2) * g * g
    moments[i, j, k] = wp.vec2(first, second)
    move = rate * (first * unbias1) / (wp.sqrt(second * unbias2) + floor)
    value = geo[i, j, k]
    geo[i, j, k] = wp.vec4(value[0] - move, value[1], value[2], value[3])


@wp.kernel
def adam_colours(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    col: wp.array3d(dtype=wp.vec4),
    grad_a: wp.array3d(dtype=wp.vec4),
    grad_b: wp.array3d(dtype=wp.vec4),
    first: wp.array3d(dtype=wp.vec4),
    second: wp.array3d(dtype=float),
    rate: float,
    beta1: float,
    beta2: float,
    unbias1: float,
    unbias2: float,
    floor: float,
):
    """One Adam step of the colours, their channels sharing a second moment; clears the buffers."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    g = grad_a[i, j, k] + grad_b[i, j, k]
    zero = wp.vec4(0.0, 0.0, 0.0, 0.0)
    grad_a[i, j, k] = zero
    grad_b[i, j, k] = zero
    m = beta1 * first[i, j, k] + (1.0 - beta1) * g
    v = beta2 * second[i, j, k] + (1.0 - beta2) * wp.dot(g, g)
    first[i, j, k] = m
    second[i, j, k] = v
    value = col[i, j, k] - (rate * unbias1 / (wp.sqrt(v * unbias2) + floor)) * m
    col[i, j, k] = wp.vec4(
        wp.clamp(value[0], 0.0, 1.0),
        wp.clamp(value[1], 0.0, 1.0),
        wp.clamp(value[2], 0.0, 1.0),
        0.0,
    )


@wp.func
def toward(f: wp.array3d(dtype=float), i: int, j: int, k: int, di: int, dj: int, dk: int, s: float):
    """The smaller of the two neighbours' distances along an axis, those beyond the surface 0."""
    a = s * f[i - di, j - dj, k - dk]
    b = s * f[i + di, j + dj, k + dk]
    return wp.max(wp.min(a, b), 0.0)


@wp.kernel
def near_distances(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    geo: wp.array3d(dtype=wp.vec4),
    h: float,
    limit: float,
    out: wp.array3d(dtype=float),
    fixed: wp.array3d(dtype=wp.uint8),
):
    """f / |g| where a neighbour lies on the surface's other side (fixed), else +-limit."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    value = geo[i, j, k]
    f = value[0]
    s = 1.0
    if f < 0.0:
        s = -1.0
    crossing = (
        s * geo[i - 1, j, k][0] <= 0.0
        or s * geo[i + 1, j, k][0] <= 0.0
        or s * geo[i, j - 1, k][0] <= 0.0
        or s * geo[i, j + 1, k][0] <= 0.0
        or s * geo[i, j, k - 1][0] <= 0.0
        or s * geo[i, j, k + 1][0] <= 0.0
    )
    if crossing:
        length = wp.sqrt(value[1] * value[1] + value[2] * value[2] + value[3] * value[3])
        out[i, j, k] = wp.clamp(f / wp.max(length, 0.3), -1.8 * h, 1.8 * h)
        fixed[i, j, k] = wp.uint8(1)
    else:
        out[i, j, k] = s * limit
        fixed[i, j, k] = wp.uint8(0)


@wp.kernel
def spread_distances(
    offset: int,
    active: wp.array(dtype=wp.vec3i),
    source: wp.array3d(dtype=float),
    fixed: wp.array3d(dtype=wp.uint8),
    h: float,
    out: wp.array3d(dtype=float),
):
    """One Jacobi step of |grad f| = 1 away from the surface."""
    at = active[wp.tid() + offset]
    i = at[0]
    j = at[1]
    k = at[2]
    f = source[i, j, k]
    if fixed[i, j, k] == wp.uint8(1):
        out[i, j, k] = f
        return
    s = 1.0
    if f < 0.0:
        s = -1.0
    a = toward(source, i, j, k, 1, 0, 0, s)
    b = toward(source, i, j, k, 0, 1, 0, s)
    c = toward(source, i, j, k, 0, 0, 1, s)
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
    out[i, j, k] = s * wp.min(wp.abs(f), d)
