// What the cases share: arguments, waiting with a deadline, and one word on standard output when all went well.
import assert from 'node:assert/strict'

export const [name, broker, topic, ...more] = process.argv.slice(2)

export async function until (what, condition, deadlineMs = 40_000) {
  const end = Date.now() + deadlineMs
  for (;;) {
    const found = await condition()
    if (found) return found
    assert.ok(Date.now() < end, `did not happen in time: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

export async function run (cases) {
  try {
    await cases[name]()
    console.log('passed')
    process.exit(0)
  } catch (problem) {
    console.error(problem, JSON.stringify(problem.errors ?? problem.cause ?? '', null, 1))
    process.exit(1)
  }
}
