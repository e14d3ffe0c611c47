"""Warp kernels that composite splats pixel by pixel, for GPUs; `torch_impl` is the reference.

A thread handles a pixel; the threads of a tile add to the gradients of its splats atomically.
"""

import warp as wp

from .tile_kernels import Composite, Gradients, Tiles


@wp.func
def exponent(offset: wp.vec2, conic: wp.vec3):
    """Half the squared Mahalanobis distance."""
    return (
        0.5 * (conic[0] * offset[0] * offset[0] + conic[2] * offset[1] * offset[1])
        + conic[1] * offset[0] * offset[1]
    )


@wp.func
def tile_of(tiles: Tiles, size: int, index: int):
    """Tile of a pixel."""
    return (index // tiles.width // size) * tiles.columns + (index % tiles.width) // size


@wp.func
def centre_of(tiles: Tiles, index: int):
    """Centre of a pixel."""
    return wp.vec2(float(index % tiles.width) + 0.5, float(index // tiles.width) + 0.5)


@wp.kernel(enable_backward=False)
def composite_pixels(offset: int, tiles: Tiles, size: int, result: Composite):
    """Composites the splats of a tile at one pixel, front to back."""
    index = offset + wp.tid()
    tile = tile_of(tiles, size, index)
    pixel = centre_of(tiles, index)
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
    result.channels[index] = total
    result.transmittance[index] = transmittance
    result.last[index] = last


@wp.kernel(enable_backward=False)
def differentiate_pixels(offset: int, tiles: Tiles, size: int, result: Composite, grad: Gradients):
    """Adds the gradients at one pixel to the splats of its tile, back to front."""
    index = offset + wp.tid()
    start = tiles.starts[tile_of(tiles, size, index)]
    pixel = centre_of(tiles, index)
    gradient = grad.channels[index]
    transmittance = result.transmittance[index]
    behind = transmittance * grad.transmittance[index]
    count = result.last[index] - start
    for step in range(count):
        pair = start + count - 1 - step
        splat = tiles.splats[pair]
        conic = tiles.conics[splat]
        offset_px = tiles.means[splat] - pixel
        power = exponent(offset_px, conic)
        falloff = wp.exp(-power)
        uncapped = tiles.opacities[splat] * falloff
        alpha = wp.min(uncapped, tiles.max_alpha)
        if power >= 0.0 and alpha >= tiles.min_alpha:
            transmittance = transmittance / (1.0 - alpha)  # in front of this splat
            weight = alpha * transmittance
            value = wp.dot(gradient, tiles.channels[splat])
            by_alpha = transmittance * value - behind / (1.0 - alpha)
            behind += weight * value
            slot = grad.slots[pair]
            for channel in range(4):
                wp.atomic_add(grad.pairs, slot, 6 + channel, weight * gradient[channel])
            if uncapped < tiles.max_alpha:
                by_power = -alpha * by_alpha
                x, y = offset_px[0], offset_px[1]
                wp.atomic_add(grad.pairs, slot, 0, by_power * (conic[0] * x + conic[1] * y))
                wp.atomic_add(grad.pairs, slot, 1, by_power * (conic[1] * x + conic[2] * y))
                wp.atomic_add(grad.pairs, slot, 2, 0.5 * by_power * x * x)
                wp.atomic_add(grad.pairs, slot, 3, by_power * x * y)
                wp.atomic_add(grad.pairs, slot, 4, 0.5 * by_power * y * y)
                wp.atomic_add(grad.pairs, slot, 5, falloff * by_alpha)
