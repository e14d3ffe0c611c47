"""Warp kernels of the projection, forward and backward; `projection.py` is the reference."""

import warp as wp


@wp.struct
class Camera:
    """One camera with the constants of the projection."""

    rotation: wp.mat33
    translation: wp.vec3
    focal: wp.vec2
    centre: wp.vec2
    low: wp.vec2
    """Lower limits of x / z and y / z in the Jacobian."""
    high: wp.vec2
    perspective: int
    near: float
    blur: float
    min_alpha: float


@wp.struct
class Projected:
    """Splats in the image; or gradients by them, then without extents."""

    means: wp.array(dtype=wp.vec2)
    conics: wp.array(dtype=wp.vec3)
    depths: wp.array(dtype=float)
    extents: wp.array(dtype=wp.vec2)


@wp.struct
class Parameters:
    """Splats in the world, or gradients by them."""

    positions: wp.array(dtype=wp.vec3)
    scales: wp.array(dtype=wp.vec3)
    rotations: wp.array(dtype=wp.vec4)


@wp.func
def matrix_of(q: wp.vec4):
    """Rotation matrix of a unit quaternion w, x, y, z."""
    w, x, y, z = q[0], q[1], q[2], q[3]
    return wp.mat33(
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@wp.func
def matrix_of_backward(q: wp.vec4, g: wp.mat33):
    """Gradient by a quaternion of the gradient by its matrix."""
    w, x, y, z = q[0], q[1], q[2], q[3]
    xy = g[0, 1] + g[1, 0]
    xz = g[0, 2] + g[2, 0]
    yz = g[1, 2] + g[2, 1]
    rx = g[2, 1] - g[1, 2]
    ry = g[0, 2] - g[2, 0]
    rz = g[1, 0] - g[0, 1]
    return 2.0 * wp.vec4(
        x * rx + y * ry + z * rz,
        y * xy + z * xz + w * rx - 2.0 * x * (g[1, 1] + g[2, 2]),
        x * xy + z * yz + w * ry - 2.0 * y * (g[0, 0] + g[2, 2]),
        x * xz + y * yz + w * rz - 2.0 * z * (g[0, 0] + g[1, 1]),
    )


@wp.func
def plane_of(camera: Camera, p: wp.vec3):
    """x / z and y / z, clamped to the frustum with its margin."""
    return wp.vec2(
        wp.clamp(p[0] / p[2], camera.low[0], camera.high[0]),
        wp.clamp(p[1] / p[2], camera.low[1], camera.high[1]),
    )


@wp.func
def jacobian_x(camera: Camera, p: wp.vec3):
    """Derivative of the pixel's x by camera coordinates."""
    if camera.perspective == 0:
        return wp.vec3(camera.focal[0], 0.0, 0.0)
    f = camera.focal[0] / p[2]
    return wp.vec3(f, 0.0, -f * plane_of(camera, p)[0])


@wp.func
def jacobian_y(camera: Camera, p: wp.vec3):
    """Derivative of the pixel's y by camera coordinates."""
    if camera.perspective == 0:
        return wp.vec3(0.0, camera.focal[1], 0.0)
    f = camera.focal[1] / p[2]
    return wp.vec3(0.0, f, -f * plane_of(camera, p)[1])


@wp.kernel(enable_backward=False)
def project(
    offset: int,
    camera: Camera,
    given: Parameters,
    opacities: wp.array(dtype=float),
    result: Projected,
):
    """One thread per splat."""
    i = offset + wp.tid()
    p = camera.rotation * given.positions[i] + camera.translation
    result.depths[i] = p[2]
    if p[2] <= camera.near or opacities[i] < camera.min_alpha:
        result.means[i] = wp.vec2(0.0, 0.0)
        result.conics[i] = wp.vec3(1.0, 0.0, 1.0)
        result.extents[i] = wp.vec2(0.0, 0.0)
        return
    depth = float(1.0)
    if camera.perspective == 1:
        depth = p[2]
    axes = camera.rotation * matrix_of(wp.normalize(given.rotations[i]))
    half = wp.transpose(axes * wp.diag(given.scales[i]))
    h0 = half * jacobian_x(camera, p)
    h1 = half * jacobian_y(camera, p)
    xx = wp.dot(h0, h0) + camera.blur
    yy = wp.dot(h1, h1) + camera.blur
    xy = wp.dot(h0, h1)
    determinant = wp.max(xx * yy - xy * xy, 1e-12)
    result.means[i] = wp.vec2(
        p[0] / depth * camera.focal[0] + camera.centre[0],
        p[1] / depth * camera.focal[1] + camera.centre[1],
    )
    result.conics[i] = wp.vec3(yy / determinant, -xy / determinant, xx / determinant)
    squared = 2.0 * wp.log(opacities[i] / camera.min_alpha)
    result.extents[i] = wp.vec2(wp.sqrt(squared * xx), wp.sqrt(squared * yy))


@wp.kernel(enable_backward=False)
def project_backward(
    offset: int,
    camera: Camera,
    given: Parameters,
    projected: Projected,
    grad: Projected,
    result: Parameters,
):
    """One thread per splat; `result` holds zeros before."""
    i = offset + wp.tid()
    if projected.extents[i][0] <= 0.0:
        return
    p = camera.rotation * given.positions[i] + camera.translation
    length = wp.length(given.rotations[i])
    q = given.rotations[i] / length
    scales = given.scales[i]
    axes = camera.rotation * matrix_of(q)
    scaled = axes * wp.diag(scales)
    j0 = jacobian_x(camera, p)
    j1 = jacobian_y(camera, p)
    h0 = wp.transpose(scaled) * j0
    h1 = wp.transpose(scaled) * j1

    # by the covariance C: -C^-1 G C^-1
    conic = projected.conics[i]
    inverse = wp.mat22(conic[0], conic[1], conic[1], conic[2])
    g = grad.conics[i]
    by_cov = -1.0 * inverse * wp.mat22(g[0], 0.5 * g[1], 0.5 * g[1], g[2]) * inverse
    by_h0 = 2.0 * (by_cov[0, 0] * h0 + by_cov[0, 1] * h1)
    by_h1 = 2.0 * (by_cov[1, 1] * h1 + by_cov[0, 1] * h0)
    by_scaled = wp.outer(j0, by_h0) + wp.outer(j1, by_h1)

    by_mean = grad.means[i]
    by_p = wp.vec3(0.0, 0.0, grad.depths[i])
    if camera.perspective == 1:
        by_j0 = scaled * by_h0
        by_j1 = scaled * by_h1
        plane = plane_of(camera, p)
        z = p[2]
        fx = camera.focal[0] / z
        fy = camera.focal[1] / z
        by_x = by_mean[0] * fx
        by_y = by_mean[1] * fy
        by_z = -(by_x * p[0] + by_y * p[1]) / z
        by_z += (fx * (by_j0[2] * plane[0] - by_j0[0]) + fy * (by_j1[2] * plane[1] - by_j1[1])) / z
        if plane[0] == p[0] / z:
            by_x -= fx * by_j0[2] / z
            by_z += fx * by_j0[2] * plane[0] / z
        if plane[1] == p[1] / z:
            by_y -= fy * by_j1[2] / z
            by_z += fy * by_j1[2] * plane[1] / z
        by_p += wp.vec3(by_x, by_y, by_z)
    else:
        by_p += wp.vec3(by_mean[0] * camera.focal[0], by_mean[1] * camera.focal[1], 0.0)
    to_world = wp.transpose(camera.rotation)
    result.positions[i] = to_world * by_p

    product = wp.transpose(axes) * by_scaled
    result.scales[i] = wp.vec3(product[0, 0], product[1, 1], product[2, 2])
    by_q = matrix_of_backward(q, to_world * by_scaled * wp.diag(scales))
    result.rotations[i] = (by_q - wp.dot(by_q, q) * q) / length
