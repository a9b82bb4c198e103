// What every page gets. Each module does nothing on a page that has nothing for it.
import { writeTimes } from "./times.js";
import { startTheme } from "./theme.js";
import { startMenu } from "./menu.js";
import { startDialogs } from "./dialogs.js";
import { startTips } from "./tips.js";
import { startLive } from "./live.js";
import { startForms } from "./forms.js";

writeTimes(document);
startTheme();
startMenu();
startDialogs();
startTips();
startLive();
startForms();
