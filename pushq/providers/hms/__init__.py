"""HMS Push Kit, by its REST API: v1 and v2 for phones up to HarmonyOS 4, v3 for those after."""
