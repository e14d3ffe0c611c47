// Orders this pack's templates: those that run without a download first, the others by name.
// ComfyUI lists the files of a template folder in the order of the file system.
import { api } from '../../scripts/api.js'

const FIRST = [
  'image_to_mesh',
  'image_to_mesh.app',
  'views_to_mesh',
  'views_to_mesh.app',
  'multiview_images_to_mesh',
  'views_to_splats',
  'mesh_to_turntable',
  'mesh_against_reference'
]
const PACK = decodeURIComponent(new URL(import.meta.url).pathname).split('/').at(-2)

function rank(name) {
  return FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length
}

const listTemplates = api.getWorkflowTemplates
api.getWorkflowTemplates = async function (...options) {
  const templates = await listTemplates.apply(this, options)
  templates[PACK]?.sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
  return templates
}
