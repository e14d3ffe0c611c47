"""Warp kernels that composite splats tile by tile; `torch_impl` is the reference.

A pair is a splat in a tile that it touches. On the CPU a thread handles a tile and owns the
gradients of its pairs, so results do not depend on the number of threads. On a GPU a thread handles
a pixel, and the threads of a tile add to its pairs atomically.
"""

import warp as wp


@wp.struct
class Tiles:
    """Splats of an image, sorted by tile and depth."""

    starts: wp.array(dtype=int)
    splats: wp.array(dtype=int)
    means: wp.array(dtype=wp.vec2)
    conics: wp.array(dtype=wp.vec3)
    opacities: wp.array(dtype=float)
    channels: wp.array(dtype=wp.vec4)
    columns: int
    width: int
    height: int
    size: int
    min_alpha: float
    max_alpha: float
    min_transmittance: float


@wp.struct
class Composite:
    """Result of compositing, by pixel."""

    channels: wp.array(dtype=wp.vec4)
    transmittance: wp.array(dtype=float)
    last: wp.array(dtype=int)


@wp.struct
class Gradients:
    """Gradients of a loss by the result, and by each pair."""

    channels: wp.array(dtype=wp.vec4)
    transmittance: wp.array(dtype=float)
    pair_means: wp.array(dtype=wp.vec2)
    pair_conics: wp.array(dtype=wp.vec3)
    pair_opacities: wp.array(dtype=float)
    pair_channels: wp.array(dtype=wp.vec4)


@wp.func
def exponent(offset: wp.vec2, conic: wp.vec3):
    """Half the squared Mahalanobis distance."""
    return (
        0.5 * (conic[0] * offset[0] * offset[0] + conic[2] * offset[1] * offset[1])
        + conic[1] * offset[0] * offset[1]
    )


@wp.func
def composite_pixel(tiles: Tiles, result: Composite, tile: int, x: int, y: int):
    """Composites the splats of a tile at one pixel, front to back."""
    pixel = wp.vec2(float(x) + 0.5, float(y) + 0.5)
    total = wp.vec4(0.0, 0.0, 0.0, 0.0)
    transmittance = float(1.0)
    last = int(tiles.starts[tile])
    for pair in range(tiles.starts[tile], tiles.starts[tile + 1]):
        splat = tiles.splats[pair]
        power = exponent(tiles.means[splat] - pixel, tiles.conics[splat])
        alpha = wp.min(tiles.opacities[splat] * wp.exp(-power), tiles.max_alpha)
        if power >= 0.0 and alpha >= tiles.min_alpha:
            after = transmittance * (1.0 - alpha)
            if after < tiles.min_transmittance:
                break
            total += alpha * transmittance * tiles.channels[splat]
            transmittance = after
            last = pair + 1
    index = y * tiles.width + x
    result.channels[index] = total
    result.transmittance[index] = transmittance
    result.last[index] = last


@wp.func
def differentiate_pixel(
    tiles: Tiles, result: Composite, grad: Gradients, tile: int, x: int, y: int
):
    """Adds the gradients at one pixel to the pairs of its tile, back to front.

    With weight w_i = alpha_i T_i and g_i = gradient . channels_i:
    dL/dalpha_i = T_i g_i - (sum of w_j g_j behind i + T dL/dT) / (1 - alpha_i).
    """
    pixel = wp.vec2(float(x) + 0.5, float(y) + 0.5)
    index = y * tiles.width + x
    gradient = grad.channels[index]
    transmittance = result.transmittance[index]
    behind = transmittance * grad.transmittance[index]
    start = tiles.starts[tile]
    count = result.last[index] - start
    for step in range(count):
        pair = start + count - 1 - step
        splat = tiles.splats[pair]
        conic = tiles.conics[splat]
        offset = tiles.means[splat] - pixel
        power = exponent(offset, conic)
        falloff = wp.exp(-power)
        alpha = wp.min(tiles.opacities[splat] * falloff, tiles.max_alpha)
        if power >= 0.0 and alpha >= tiles.min_alpha:
            transmittance = transmittance / (1.0 - alpha)  # in front of this splat
            weight = alpha * transmittance
            value = wp.dot(gradient, tiles.channels[splat])
            by_alpha = transmittance * value - behind / (1.0 - alpha)
            behind += weight * value
            wp.atomic_add(grad.pair_channels, pair, weight * gradient)
            if tiles.opacities[splat] * falloff < tiles.max_alpha:
                by_power = -alpha * by_alpha
                wp.atomic_add(grad.pair_opacities, pair, falloff * by_alpha)
                wp.atomic_add(
                    grad.pair_means,
                    pair,
                    by_power
                    * wp.vec2(
                        conic[0] * offset[0] + conic[1] * offset[1],
                        conic[1] * offset[0] + conic[2] * offset[1],
                    ),
                )
                wp.atomic_add(
                    grad.pair_conics,
                    pair,
                    by_power
                    * wp.vec3(
                        0.5 * offset[0] * offset[0],
                        offset[0] * offset[1],
                        0.5 * offset[1] * offset[1],
                    ),
                )


@wp.kernel(enable_backward=False)
def composite_tiles(offset: int, tiles: Tiles, result: Composite):
    """One thread per tile."""
    tile = offset + wp.tid()
    x0 = (tile % tiles.columns) * tiles.size
    y0 = (tile // tiles.columns) * tiles.size
    for y in range(y0, wp.min(y0 + tiles.size, tiles.height)):
        for x in range(x0, wp.min(x0 + tiles.size, tiles.width)):
            composite_pixel(tiles, result, tile, x, y)


@wp.kernel(enable_backward=False)
def composite_pixels(offset: int, tiles: Tiles, result: Composite):
    """One thread per pixel."""
    index = offset + wp.tid()
    x = index % tiles.width
    y = index // tiles.width
    tile = (y // tiles.size) * tiles.columns + x // tiles.size
    composite_pixel(tiles, result, tile, x, y)


@wp.kernel(enable_backward=False)
def differentiate_tiles(offset: int, tiles: Tiles, result: Composite, grad: Gradients):
    """One thread per tile."""
    tile = offset + wp.tid()
    x0 = (tile % tiles.columns) * tiles.size
    y0 = (tile // tiles.columns) * tiles.size
    for y in range(y0, wp.min(y0 + tiles.size, tiles.height)):
        for x in range(x0, wp.min(x0 + tiles.size, tiles.width)):
            differentiate_pixel(tiles, result, grad, tile, x, y)


@wp.kernel(enable_backward=False)
def differentiate_pixels(offset: int, tiles: Tiles, result: Composite, grad: Gradients):
    """One thread per pixel."""
    index = offset + wp.tid()
    x = index % tiles.width
    y = index // tiles.width
    tile = (y // tiles.size) * tiles.columns + x // tiles.size
    differentiate_pixel(tiles, result, grad, tile, x, y)
