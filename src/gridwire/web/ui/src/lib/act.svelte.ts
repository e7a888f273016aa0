/** One thing a person does at a time, and what the hub said to it. */
import { textOf } from "./api";

export class Act {
  busy = $state(false);
  said = $state({ text: "", wrong: false });

  /** Do it; what it returns is said, and so is why it failed. */
  async run(what: () => Promise<string>): Promise<void> {
    this.busy = true;
    this.said = { text: "", wrong: false };
    try {
      this.said = { text: await what(), wrong: false };
    } catch (error) {
      this.said = { text: textOf(error), wrong: true };
    } finally {
      this.busy = false;
    }
  }
}
