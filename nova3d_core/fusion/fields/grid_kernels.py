"""Compiled twins of the dense grid's steps, in warp: one source for CPU and CUDA, no compiler.

A kernel's thread handles one ray or one voxel. On the CPU a launch runs its threads one after the
other, so `launch.py` starts several launches side by side, each with buffers of its own.
Grids hold four floats a voxel: `geo` (f, gx, gy, gz), `col` (r, g, b, unused).
`grid_torch.py` holds the plain twins that the tests compare with.
"""

import warp as wp

STOP_BELOW = wp.constant(0.005)
"""A ray ends where less than this share of its light is left."""
COLOUR_ABOVE = wp.constant(0.004)
"""Samples with less weight than this add no colour."""


@wp.func
def sigmoid(x: float):
    return 1.0 / (1.0 + wp.exp(-x))


@wp.func
def read(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3):
    """Trilinear value at p, in cells."""
    i = int(p[0])
    j = int(p[1])
    k = int(p[2])
    u = p[0] - float(i)
    v = p[1] - float(j)
    w = p[2] - float(k)
    a = (1.0 - w) * grid[i, j, k] + w * grid[i, j, k + 1]
    b = (1.0 - w) * grid[i, j + 1, k] + w * grid[i, j + 1, k + 1]
    c = (1.0 - w) * grid[i + 1, j, k] + w * grid[i + 1, j, k + 1]
    d = (1.0 - w) * grid[i + 1, j + 1, k] + w * grid[i + 1, j + 1, k + 1]
    return (1.0 - u) * ((1.0 - v) * a + v * b) + u * ((1.0 - v) * c + v * d)


@wp.func
def pull_back(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3, q: wp.vec4):
    """Derivative (per cell) of dot(q, trilinear value) by the place p."""
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


@wp.func
def scatter(grid: wp.array3d(dtype=wp.vec4), p: wp.vec3, q: wp.vec4):
    """Adds q to the eight voxels around p with their trilinear weights."""
    i = int(p[0])
    j = int(p[1])
    k = int(p[2])
    u = p[0] - float(i)
    v = p[1] - float(j)
    w = p[2] - float(k)
    a = (1.0 - u) * (1.0 - v)
    b = (1.0 - u) * v
    c = u * (1.0 - v)
    d = u * v
    wp.atomic_add(grid, i, j, k, (a * (1.0 - w)) * q)
    wp.atomic_add(grid, i, j, k + 1, (a * w) * q)
    wp.atomic_add(grid, i, j + 1, k, (b * (1.0 - w)) * q)
    wp.atomic_add(grid, i, j + 1, k + 1, (b * w) * q)
    wp.atomic_add(grid, i + 1, j, k, (c * (1.0 - w)) * q)
    wp.atomic_add(grid, i + 1, j, k + 1, (c * w) * q)
    wp.atomic_add(grid, i + 1, j + 1, k, (d * (1.0 - w)) * q)
    wp.atomic_add(grid, i + 1, j + 1, k + 1, (d * w) * q)


@wp.func
def box_range(o: wp.vec3, d: wp.vec3, size: wp.vec3):
    """Where a ray (in cells) enters and leaves the grid; enters after it leaves if it misses."""
    near = float(0.0)
    far = float(1.0e9)
    for axis in range(3):
        if wp.abs(d[axis]) > 1.0e-9:
            a = (0.001 - o[axis]) / d[axis]
            b = (size[axis] - 1.001 - o[axis]) / d[axis]
            near = wp.max(near, wp.min(a, b))
            far = wp.min(far, wp.max(a, b))
        elif o[axis] < 0.001 or o[axis] > size[axis] - 1.001:
            far = -1.0
    return wp.vec2(near, far)


@wp.kernel
def first_in_band(
    offset: int,
    geo: wp.array3d(dtype=wp.vec4),
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    band: float,
    h: float,
    start: wp.array(dtype=float),
):
    """Sphere-traces each ray (in cells) to where |f| falls below the band; -1 where it never does."""
    ray = wp.tid() + offset
    o = origins[ray]
    d = directions[ray]
    size = wp.vec3(float(geo.shape[0]), float(geo.shape[1]), float(geo.shape[2]))
    span = box_range(o, d, size)
    t = span[0]
    found = float(-1.0)
    while t < span[1]:
        f = read(geo, o + t * d)[0]
        if f < band:
            found = t
            break
        t = t + wp.max(0.9 * (f - band) / h, 0.5)
    start[ray] = found


@wp.kernel
def render_forward(
    offset: int,
    geo: wp.array3d(dtype=wp.vec4),
    col: wp.array3d(dtype=wp.vec4),
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    start: wp.array(dtype=float),
    sharpness: float,
    band: float,
    h: float,
    step: float,
    out_geo: wp.array(dtype=wp.vec4),
    out_col: wp.array(dtype=wp.vec4),
):
    """NeuS compositing of opacity and gradient into out_geo, colour and depth into out_col."""
    ray = wp.tid() + offset
    t = start[ray]
    acc = wp.vec4(0.0, 0.0, 0.0, 0.0)
    rgb = wp.vec4(0.0, 0.0, 0.0, 0.0)
    if t >= 0.0:
        o = origins[ray]
        d = directions[ray]
        size = wp.vec3(float(geo.shape[0]), float(geo.shape[1]), float(geo.shape[2]))
        far = box_range(o, d, size)[1]
        light = float(1.0)
        carried = float(0.0)
        value = read(geo, o + t * d)
        inside = sigmoid(sharpness * value[0])
        while t < far:
            jump = step
            if value[0] > band:
                jump = wp.max(0.9 * (value[0] - band) / h, step)
            t_next = t + jump
            weight = float(0.0)
            next_value = value
            next_inside = inside
            if t_next < far:
                next_value = read(geo, o + t_next * d)
                next_inside = sigmoid(sharpness * next_value[0])
                weight = light * wp.max((inside - next_inside) / (inside + 1.0e-9), 0.0)
            share = 0.5 * (carried + weight)
            if share > 0.0:
                acc = acc + share * wp.vec4(1.0, value[1], value[2], value[3])
                if share > COLOUR_ABOVE:
                    c = read(col, o + t * d)
                    rgb = rgb + share * wp.vec4(c[0], c[1], c[2], t)
                else:
                    rgb = rgb + share * wp.vec4(0.0, 0.0, 0.0, t)
            light = light - weight
            carried = weight
            t = t_next
            value = next_value
            inside = next_inside
            if light < STOP_BELOW:
                # the last sample's half of the weight
                c = read(col, o + t * d)
                acc = acc + 0.5 * carried * wp.vec4(1.0, value[1], value[2], value[3])
                rgb = rgb + 0.5 * carried * wp.vec4(c[0], c[1], c[2], t)
                break
    out_geo[ray] = acc
    out_col[ray] = rgb


@wp.kernel
def render_backward(
    offset: int,
    geo: wp.array3d(dtype=wp.vec4),
    col: wp.array3d(dtype=wp.vec4),
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    start: wp.array(dtype=float),
    sharpness: float,
    band: float,
    h: float,
    step: float,
    out_geo: wp.array(dtype=wp.vec4),
    out_col: wp.array(dtype=wp.vec4),
    d_geo: wp.array(dtype=wp.vec4),
    d_col: wp.array(dtype=wp.vec4),
    with_rays: int,
    grad_geo: wp.array3d(dtype=wp.vec4),
    grad_col: wp.array3d(dtype=wp.vec4),
    grad_origins: wp.array(dtype=wp.vec3),
    grad_directions: wp.array(dtype=wp.vec3),
):
    """Adds the losses' derivatives to the voxels, and with_rays also gives those by the rays.

    d_geo, d_col are the derivatives by the outputs of `render_forward`.
    """
    ray = wp.tid() + offset
    t = start[ray]
    by_origin = wp.vec3(0.0, 0.0, 0.0)
    by_direction = wp.vec3(0.0, 0.0, 0.0)
    if t >= 0.0:
        o = origins[ray]
        d = directions[ray]
        size = wp.vec3(float(geo.shape[0]), float(geo.shape[1]), float(geo.shape[2]))
        far = box_range(o, d, size)[1]
        qg = d_geo[ray]
        qc = wp.vec4(d_col[ray][0], d_col[ray][1], d_col[ray][2], 0.0)
        normal_part = wp.vec4(0.0, qg[1], qg[2], qg[3])
        # what all samples behind the present one are worth: total minus what is passed
        behind = wp.dot(qg, out_geo[ray]) + wp.dot(d_col[ray], out_col[ray])
        light = float(1.0)
        carried = float(0.0)
        by_f = float(0.0)
        value = read(geo, o + t * d)
        inside = sigmoid(sharpness * value[0])
        worth = (
            qg[0]
            + wp.dot(normal_part, value)
            + wp.dot(qc, read(col, o + t * d))
            + d_col[ray][3] * t
        )
        done = int(0)
        while t < far and done == 0:
            jump = step
            if value[0] > band:
                jump = wp.max(0.9 * (value[0] - band) / h, step)
            t_next = t + jump
            weight = float(0.0)
            next_value = value
            next_inside = inside
            next_worth = worth
            next_by_f = float(0.0)
            if t_next < far:
                next_value = read(geo, o + t_next * d)
                next_inside = sigmoid(sharpness * next_value[0])
                alpha = (inside - next_inside) / (inside + 1.0e-9)
                next_worth = qg[0] + wp.dot(normal_part, next_value)
                if alpha > 0.0 or next_value[0] < band:
                    c = read(col, o + t_next * d)
                    next_worth = next_worth + wp.dot(qc, c) + d_col[ray][3] * t_next
                if alpha > 0.0:
                    weight = light * alpha
                    section = 0.5 * (worth + next_worth)
                    behind = behind - weight * section
                    by_alpha = light * section - behind / wp.max(1.0 - alpha, 1.0e-6)
                    ratio = next_inside / (inside + 1.0e-9)
                    by_f = by_f + by_alpha * ratio * sharpness * (1.0 - inside)
                    next_by_f = -by_alpha * ratio * sharpness * (1.0 - next_inside)
            share = 0.5 * (carried + weight)
            light = light - weight
            if light < STOP_BELOW:
                done = 1
            if share > 0.0 or by_f != 0.0:
                p = o + t * d
                gg = wp.vec4(by_f, share * qg[1], share * qg[2], share * qg[3])
                scatter(grad_geo, p, gg)
                if share > COLOUR_ABOVE:
                    scatter(grad_col, p, share * qc)
                if with_rays == 1:
                    gx = pull_back(geo, p, gg) + pull_back(col, p, share * qc)
                    by_origin = by_origin + gx
                    by_direction = by_direction + t * gx
            carried = weight
            by_f = next_by_f
            t = t_next
            value = next_value
            inside = next_inside
            worth = next_worth
        if done == 1:
            p = o + t * d
            gg = wp.vec4(by_f, 0.5 * carried * qg[1], 0.5 * carried * qg[2], 0.5 * carried * qg[3])
            scatter(grad_geo, p, gg)
            scatter(grad_col, p, 0.5 * carried * qc)
            if with_rays == 1:
                gx = pull_back(geo, p, gg) + pull_back(col, p, 0.5 * carried * qc)
                by_origin = by_origin + gx
                by_direction = by_direction + t * gx
    grad_origins[ray] = by_origin
    grad_directions[ray] = by_direction
