"""Warp kernels of the dense grid: ray marching, forward and backward, on CPU and CUDA.

A thread handles one ray. On the CPU a launch runs its threads sequentially, so
`warp_backend.launch` starts several concurrent launches, each with its own gradient buffers. Grids
hold four floats per voxel: `geo` (f, gx, gy, gz), `col` (r, g, b, unused). `torch_impl.py` has the
same functions in PyTorch.
"""

import warp as wp

from . import constants

MIN_TRANSMITTANCE = wp.constant(constants.MIN_TRANSMITTANCE)
COLOUR_BANDS = wp.constant(constants.COLOUR_BANDS)
TINY = wp.constant(constants.TINY)
HALF_DIAGONAL = wp.constant(constants.HALF_DIAGONAL)


@wp.func
def sigmoid(x: float):
    return 1.0 / (1.0 + wp.exp(-x))


_READ = """
#if defined(__CUDA_ARCH__) || defined(__CUDACC__)
    typedef wp::vec_t<4, wp::float32> four;
#else
    typedef float four __attribute__((ext_vector_type(4), aligned(4)));
#endif
    const int i = (int)p[0], j = (int)p[1], k = (int)p[2];
    const float u = p[0] - (float)i, v = p[1] - (float)j, w = p[2] - (float)k;
    const long long x = grid.strides[0], y = grid.strides[1], z = grid.strides[2];
    const char* at = (const char*)grid.data + i * x + j * y + k * z;
    const four a = (1.0f - w) * *(const four*)at + w * *(const four*)(at + z);
    const four b = (1.0f - w) * *(const four*)(at + y) + w * *(const four*)(at + y + z);
    const four c = (1.0f - w) * *(const four*)(at + x) + w * *(const four*)(at + x + z);
    const four d = (1.0f - w) * *(const four*)(at + x + y) + w * *(const four*)(at + x + y + z);
    const four value = (1.0f - u) * ((1.0f - v) * a + v * b) + u * ((1.0f - v) * c + v * d);
    return wp::vec_t<4, wp::float32>(value[0], value[1], value[2], value[3]);
"""
"""On a CPU warp splits its own vec4 into scalars: whole rays take half the time with the compiler's
vector type. p lies within the grid, so indices need no check for negative values."""


@wp.func_native(_READ)
def trilinear(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3) -> wp.vec4:
    """Trilinear value at p, in cells."""
    ...


@wp.func
def trilinear_grad(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3, q: wp.vec4):
    """Gradient (per cell) of dot(q, trilinear value) with respect to the position p."""
    i = int(p[0])
    j = int(p[1])
    k = int(p[2])
    u = p[0] - float(i)
    v = p[1] - float(j)
    w = p[2] - float(k)
    d000 = wp.dot(q, grid[i, j, k])
    d001 = wp.dot(q, grid[i, j, k + 1])
    d010 = wp.dot(q, grid[i, j + 1, k])
    d011 = wp.dot(q, grid[i, j + 1, k + 1])
    d100 = wp.dot(q, grid[i + 1, j, k])
    d101 = wp.dot(q, grid[i + 1, j, k + 1])
    d110 = wp.dot(q, grid[i + 1, j + 1, k])
    d111 = wp.dot(q, grid[i + 1, j + 1, k + 1])
    x0 = (1.0 - v) * ((1.0 - w) * d000 + w * d001) + v * ((1.0 - w) * d010 + w * d011)
    x1 = (1.0 - v) * ((1.0 - w) * d100 + w * d101) + v * ((1.0 - w) * d110 + w * d111)
    y0 = (1.0 - u) * ((1.0 - w) * d000 + w * d001) + u * ((1.0 - w) * d100 + w * d101)
    y1 = (1.0 - u) * ((1.0 - w) * d010 + w * d011) + u * ((1.0 - w) * d110 + w * d111)
    z0 = (1.0 - u) * ((1.0 - v) * d000 + v * d010) + u * ((1.0 - v) * d100 + v * d110)
    z1 = (1.0 - u) * ((1.0 - v) * d001 + v * d011) + u * ((1.0 - v) * d101 + v * d111)
    return wp.vec3(x1 - x0, y1 - y0, z1 - z0)


_SPLAT = """
    const int i = (int)p[0], j = (int)p[1], k = (int)p[2];
    const float u = p[0] - (float)i, v = p[1] - (float)j, w = p[2] - (float)k;
    const float a = (1.0f - u) * (1.0f - v), b = (1.0f - u) * v, c = u * (1.0f - v), d = u * v;
#if defined(__CUDA_ARCH__) || defined(__CUDACC__)
    wp::atomic_add(grid, i, j, k, (a * (1.0f - w)) * q);
    wp::atomic_add(grid, i, j, k + 1, (a * w) * q);
    wp::atomic_add(grid, i, j + 1, k, (b * (1.0f - w)) * q);
    wp::atomic_add(grid, i, j + 1, k + 1, (b * w) * q);
    wp::atomic_add(grid, i + 1, j, k, (c * (1.0f - w)) * q);
    wp::atomic_add(grid, i + 1, j, k + 1, (c * w) * q);
    wp::atomic_add(grid, i + 1, j + 1, k, (d * (1.0f - w)) * q);
    wp::atomic_add(grid, i + 1, j + 1, k + 1, (d * w) * q);
#else
    typedef float four __attribute__((ext_vector_type(4), aligned(4)));
    const four value = {q[0], q[1], q[2], q[3]};
    const long long x = grid.strides[0], y = grid.strides[1], z = grid.strides[2];
    char* at = (char*)grid.data + i * x + j * y + k * z;
    *(four*)at += (a * (1.0f - w)) * value;
    *(four*)(at + z) += (a * w) * value;
    *(four*)(at + y) += (b * (1.0f - w)) * value;
    *(four*)(at + y + z) += (b * w) * value;
    *(four*)(at + x) += (c * (1.0f - w)) * value;
    *(four*)(at + x + z) += (c * w) * value;
    *(four*)(at + x + y) += (d * (1.0f - w)) * value;
    *(four*)(at + x + y + z) += (d * w) * value;
#endif
"""
"""On a CPU each launch has its own buffers, so it needs no atomic operations."""


@wp.func_native(_SPLAT)
def splat_trilinear(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3, q: wp.vec4):
    """Adds q to the eight voxels around p with trilinear weights; transpose of `trilinear`."""
    ...


@wp.func
def box_range(o: wp.vec3, d: wp.vec3, size: wp.vec3):
    """Ray parameters where a ray (in cells) enters and leaves the grid; entry > exit for misses."""
    near = 0.0
    far = 1.0e9
    for axis in range(3):
        if wp.abs(d[axis]) > 1.0e-9:
            a = (0.001 - o[axis]) / d[axis]
            b = (size[axis] - 1.001 - o[axis]) / d[axis]
            near = wp.max(near, wp.min(a, b))
            far = wp.min(far, wp.max(a, b))
        elif o[axis] < 0.001 or o[axis] > size[axis] - 1.001:
            far = -1.0
    return wp.vec2(near, far)


@wp.struct
class RayMarch:
    """R rays, in cells, with their grid and outputs.

    samples: value and colour of the first samples of each ray, in the order of execution, for the
    backward pass; empty without one. Colours of samples without weight are undefined.
    """

    geo: wp.array3d(dtype=wp.vec4)
    col: wp.array3d(dtype=wp.vec4)
    origins: wp.array(dtype=wp.vec3)
    directions: wp.array(dtype=wp.vec3)
    start: wp.array(dtype=float)
    order: wp.array(dtype=int)
    out_geo: wp.array(dtype=wp.vec4)
    out_col: wp.array(dtype=wp.vec4)
    samples: wp.array3d(dtype=wp.vec4)
    sharpness: float
    band: float
    spacing: float


@wp.func
def ray_span(m: RayMarch, ray: int):
    """Ray parameters at which a ray enters and leaves the grid, in cells."""
    size = wp.vec3(float(m.geo.shape[0]), float(m.geo.shape[1]), float(m.geo.shape[2]))
    return box_range(m.origins[ray], m.directions[ray], size)


@wp.func
def stride(m: RayMarch, f: float):
    """Step length in cells: 1 in the band, outside as far as the distance allows."""
    if f > m.band:
        return wp.max(0.9 * (f - m.band) / m.spacing, 1.0)
    return 1.0


@wp.func
def nearest(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3):
    """f of the voxel nearest to p, in cells."""
    return grid[int(p[0] + 0.5), int(p[1] + 0.5), int(p[2] + 0.5)][0]


@wp.kernel
def first_hit(offset: int, m: RayMarch):
    """Sphere-traces each ray until it enters the band; -1 for misses.

    Far away the nearest voxel suffices: one read instead of eight.
    """
    ray = wp.tid() + offset
    span = ray_span(m, ray)
    t = span[0]
    found = float(-1.0)
    while t < span[1]:
        p = m.origins[ray] + t * m.directions[ray]
        free = (nearest(m.geo, p) - m.band) / m.spacing - HALF_DIAGONAL
        if free < 1.0:
            f = trilinear(m.geo, p)[0]
            if f < m.band:
                found = t
                break
            free = (f - m.band) / m.spacing
        t = t + wp.max(0.9 * free, 0.5)
    m.start[ray] = found


@wp.func
def colour_and_depth(m: RayMarch, p: wp.vec3, f: float, t: float):
    """Colour of a sample, if it is close enough to the surface, and its ray parameter."""
    c = wp.vec4(0.0, 0.0, 0.0, 0.0)
    if wp.abs(f) < COLOUR_BANDS * m.band:
        c = trilinear(m.col, p)
    return wp.vec4(c[0], c[1], c[2], t)


@wp.kernel
def render_forward(offset: int, m: RayMarch):
    """NeuS compositing: opacity and gradient into out_geo, colour and depth into out_col.

    A section between two samples has weight T max(1 - sigma(s f') / sigma(s f), 0), a sample the
    mean weight of the sections on its two sides.
    """
    row = wp.tid() + offset
    ray = m.order[row]
    t = m.start[ray]
    index = wp.int32(0)
    sums = wp.vec4(0.0, 0.0, 0.0, 0.0)
    rgb = wp.vec4(0.0, 0.0, 0.0, 0.0)
    if t >= 0.0:
        o = m.origins[ray]
        d = m.directions[ray]
        far = ray_span(m, ray)[1]
        transmittance = float(1.0)
        previous_weight = float(0.0)
        value = trilinear(m.geo, o + t * d)
        inside = sigmoid(m.sharpness * value[0])
        while t < far:
            t_next = t + stride(m, value[0])
            weight = float(0.0)
            next_value = value
            next_inside = inside
            if t_next < far and transmittance >= MIN_TRANSMITTANCE:
                next_value = trilinear(m.geo, o + t_next * d)
                next_inside = sigmoid(m.sharpness * next_value[0])
                weight = transmittance * wp.max(1.0 - next_inside / (inside + TINY), 0.0)
            sample_weight = 0.5 * (previous_weight + weight)
            is_stored = index < m.samples.shape[1]
            if is_stored:
                m.samples[row, index, 0] = value
            if sample_weight > 0.0:
                colour = colour_and_depth(m, o + t * d, value[0], t)
                sums = sums + sample_weight * wp.vec4(1.0, value[1], value[2], value[3])
                rgb = rgb + sample_weight * colour
                if is_stored:
                    m.samples[row, index, 1] = colour
            index = index + 1
            if transmittance < MIN_TRANSMITTANCE:
                break
            transmittance = transmittance - weight
            previous_weight = weight
            t = t_next
            value = next_value
            inside = next_inside
    m.out_geo[ray] = sums
    m.out_col[ray] = rgb


@wp.struct
class Backward:
    """Gradients of the outputs of `render_forward` (in) and of the rays (out)."""

    grad_out_geo: wp.array(dtype=wp.vec4)
    grad_out_col: wp.array(dtype=wp.vec4)
    grad_origins: wp.array(dtype=wp.vec3)
    grad_directions: wp.array(dtype=wp.vec3)
    with_rays: int


@wp.func
def sample_gradient(b: Backward, ray: int, value: wp.vec4, colour: wp.vec4):
    """dL / d weight of a sample."""
    of_geo = wp.dot(b.grad_out_geo[ray], wp.vec4(1.0, value[1], value[2], value[3]))
    return of_geo + wp.dot(b.grad_out_col[ray], colour)


@wp.func
def splat_sample(
    m: RayMarch,
    b: Backward,
    ray: int,
    p: wp.vec3,
    f: float,
    grad_f: float,
    sample_weight: float,
    grad_geo: wp.array3d(dtype=wp.vec4),
    grad_col: wp.array3d(dtype=wp.vec4),
):
    """Adds a sample's gradients to its voxels; returns the gradient of its position, per cell."""
    qg = b.grad_out_geo[ray]
    qc = b.grad_out_col[ray]
    to_geo = wp.vec4(grad_f, sample_weight * qg[1], sample_weight * qg[2], sample_weight * qg[3])
    to_col = wp.vec4(sample_weight * qc[0], sample_weight * qc[1], sample_weight * qc[2], 0.0)
    splat_trilinear(grad_geo, p, to_geo)
    grad_position = wp.vec3(0.0, 0.0, 0.0)
    near = wp.abs(f) < COLOUR_BANDS * m.band
    if near:
        splat_trilinear(grad_col, p, to_col)
    if b.with_rays == 1:
        grad_position = trilinear_grad(m.geo, p, to_geo)
        if near:
            grad_position = grad_position + trilinear_grad(m.col, p, to_col)
    return grad_position


@wp.kernel
def render_backward(
    offset: int,
    m: RayMarch,
    b: Backward,
    grad_geo: wp.array3d(dtype=wp.vec4),
    grad_col: wp.array3d(dtype=wp.vec4),
):
    """Backward pass of `render_forward`, marching again; `suffix_sum`: dL of the later sections."""
    row = wp.tid() + offset
    ray = m.order[row]
    t = m.start[ray]
    index = wp.int32(0)
    stored = m.samples.shape[1]
    grad_origin = wp.vec3(0.0)
    grad_direction = wp.vec3(0.0)
    o = m.origins[ray]
    d = m.directions[ray]
    if t >= 0.0:
        far = ray_span(m, ray)[1]
        suffix_sum = wp.dot(b.grad_out_geo[ray], m.out_geo[ray]) + wp.dot(
            b.grad_out_col[ray], m.out_col[ray]
        )
        transmittance = float(1.0)
        previous_weight = float(0.0)
        grad_f = float(0.0)
        value = wp.vec4(0.0, 0.0, 0.0, 0.0)
        rgb = wp.vec4(0.0, 0.0, 0.0, 0.0)
        if stored > 0:
            value = m.samples[row, 0, 0]
            rgb = m.samples[row, 0, 1]
        else:
            value = trilinear(m.geo, o + t * d)
            rgb = colour_and_depth(m, o + t * d, value[0], t)
        inside = sigmoid(m.sharpness * value[0])
        dL_dsample = sample_gradient(b, ray, value, rgb)
        while t < far:
            t_next = t + stride(m, value[0])
            weight = float(0.0)
            next_value = value
            next_inside = inside
            next_dL_dsample = dL_dsample
            next_grad_f = float(0.0)
            if t_next < far and transmittance >= MIN_TRANSMITTANCE:
                if index + 1 < stored:
                    next_value = m.samples[row, index + 1, 0]
                    rgb = m.samples[row, index + 1, 1]
                else:
                    next_value = trilinear(m.geo, o + t_next * d)
                    rgb = colour_and_depth(m, o + t_next * d, next_value[0], t_next)
                next_inside = sigmoid(m.sharpness * next_value[0])
                ratio = next_inside / (inside + TINY)
                next_dL_dsample = sample_gradient(b, ray, next_value, rgb)
                if ratio < 1.0:
                    weight = transmittance * (1.0 - ratio)
                    section = 0.5 * (dL_dsample + next_dL_dsample)
                    suffix_sum = suffix_sum - weight * section
                    grad_alpha = transmittance * section * ratio - suffix_sum  # times the ratio
                    grad_f = grad_f + grad_alpha * m.sharpness * (1.0 - inside)
                    next_grad_f = -grad_alpha * m.sharpness * (1.0 - next_inside)
            sample_weight = 0.5 * (previous_weight + weight)
            if sample_weight > 0.0 or grad_f != 0.0:
                p = o + t * d
                grad_position = splat_sample(
                    m, b, ray, p, value[0], grad_f, sample_weight, grad_geo, grad_col
                )
                grad_origin = grad_origin + grad_position
                grad_direction = grad_direction + t * grad_position
            if transmittance < MIN_TRANSMITTANCE:
                break
            transmittance = transmittance - weight
            previous_weight = weight
            index = index + 1
            grad_f = next_grad_f
            t = t_next
            value = next_value
            inside = next_inside
            dL_dsample = next_dL_dsample
    b.grad_origins[ray] = grad_origin
    b.grad_directions[ray] = grad_direction
